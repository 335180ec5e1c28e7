"""The engine: fits one network, keeps what it needs to go on, and says what it sees."""

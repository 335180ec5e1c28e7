"""A made corpus in the layout of the Fake Video Corpus, for trying and testing the pipeline."""

"""What the evidence is made of: measures of scored videos, and what they are compared with."""

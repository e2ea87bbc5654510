"""The implementations of the codebook operations, and the choice between them."""

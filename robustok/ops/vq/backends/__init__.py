"""The implementations of the codebook operations: what each must do (`interface`), and which there are (`registry`)."""

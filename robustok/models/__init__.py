"""Networks: tokenizers, generators, and the frozen networks that losses and metrics look through."""

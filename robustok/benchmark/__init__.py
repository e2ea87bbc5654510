"""The benchmark of tokenizers: a list of them measured one after the other, by one process or by many."""

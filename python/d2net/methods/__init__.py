"""What can be trained: a network, its losses and its decoding defaults each."""

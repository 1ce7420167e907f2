"""The processes that torchrun starts: joining them, what they exchange, and how one of them speaks for all."""

"""BaS-Net (Lee, Uh and Byun, AAAI 2020)."""

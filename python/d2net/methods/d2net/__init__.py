"""D2-Net (Sec. 3)."""

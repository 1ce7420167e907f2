"""3C-Net (Narayan, Cholakkal, Khan and Shao, ICCV 2019)."""

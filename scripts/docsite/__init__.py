"""What the documentation's site is made of: pages by hand, and pages made from the code so that they cannot lag."""

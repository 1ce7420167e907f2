"""W-TALC (Paul, Roy and Roy-Chowdhury, ECCV 2018)."""

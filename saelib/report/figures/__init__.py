"""Figures for papers and READMEs, drawn with matplotlib."""

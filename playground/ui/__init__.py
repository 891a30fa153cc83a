"""The pages. `shell.build()` puts them together; one page is one file; `live.py` holds the live-drawing components."""

"""The laboratory around the engines: the page, the command line, the store of runs, and whose turn it is."""

"""How far to trust the number of a run: takes of one recording, duplicates, labels, and the page that says so."""

"""One file for each scientific question; importing a file registers its experiment."""

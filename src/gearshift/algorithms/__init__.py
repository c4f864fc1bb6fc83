"""The algorithms, one file each, in a folder per family. The registry walks them."""

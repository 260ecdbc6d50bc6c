"""Where everything in a program blob lies; the C side of blob.SECTIONS."""

RECORD_BYTES: tuple[int, ...]  # sizeof of each section's struct, in the blob's order

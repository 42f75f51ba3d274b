"""How bytes travel between two hosts: SSH, frames, zstd. Knows nothing of containers."""

"""Other people's load testers, run as they are, and our own client: the figures of each over the same load."""

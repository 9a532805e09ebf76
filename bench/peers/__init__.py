"""Other people's servers beside ours, on the same checkpoints, requests and cores: how they are set up, started,
loaded and compared.
"""

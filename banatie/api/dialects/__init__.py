"""Other programs' protocols, each translated to `intake`: none knows another."""

"""What runs in a child: the engines and embedders of one model, and their ends of the sockets."""

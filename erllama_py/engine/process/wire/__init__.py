"""What crosses between a parent and its child, and how: frames in packets on a socket, payloads in shared memory."""

"""What tests share: children, memory with known bytes, puppets, kinds of memory, and states to wait for."""

"""The measurements that the README quotes: each is one command, each beside its peer in the same run."""

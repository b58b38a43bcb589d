"""Services that outlive the daemon, as jobs do: declared by the user, run by shims, kept alive."""

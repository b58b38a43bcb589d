"""The training worker: one noun a module. Importing this package imports neither torch nor ultralytics."""

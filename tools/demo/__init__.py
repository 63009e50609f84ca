"""The demo: five real tasks on one real backbone, served by the real daemon. Run `make demo`."""

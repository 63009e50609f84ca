"""edged-export: turns models into parameter blocks in a store. The daemon never imports it."""

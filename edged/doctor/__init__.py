"""What `edged doctor` looks at: board, driver, runtimes, rights, memory, and what would compute."""

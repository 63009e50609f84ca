"""Loading plans (PartialLoading): whom to serve by a deadline, in which order, with what bandwidth.

    problem = problem.read(data)             # or generate.generate(family, setting, rng)
    plan = methods.solve(problem)            # or solve(problem, "greedy"); see methods.METHODS
    plan.verify(problem)                     # raises PlanError naming the violated equation

This module imports none of them, so that the command line starts without arrays.
"""

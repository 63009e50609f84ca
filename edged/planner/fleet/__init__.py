"""Fleet plans (J3O, BAJ3O): which models live on which node, and where queries go.

problem = read(data)                              # or generate(family, scenario, rng, losses)
plan = solve(problem, "price")                    # a method of METHODS
plan.verify(problem)                              # raises PlanError naming violated constraints
"""

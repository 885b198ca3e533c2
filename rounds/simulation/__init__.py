"""The search as discrete events: measured service times in, makespan and utilisation out, for any number of workers."""

from support.seeded import one_thread_one_seed  # noqa: F401

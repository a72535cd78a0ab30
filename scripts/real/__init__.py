"""The stream `real`: what published networks make of real photographs, beside patches of other real photographs."""

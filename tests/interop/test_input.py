HOSTS = {}
ZONE = []
def run(world, report): pass

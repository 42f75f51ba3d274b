"""The DockerCon 2015 demo: a Quake 3 server that moves while it is being played."""

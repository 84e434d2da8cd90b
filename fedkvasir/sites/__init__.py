"""Real hospitals over Flower's SuperLink and SuperNodes: kits, the check before joining, the processes of a site."""

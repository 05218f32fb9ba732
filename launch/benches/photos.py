"""Makes the photos that two rows read: python -m launch.benches.photos FOLDER COUNT"""
import sys

from launch.benches import inputs

if __name__ == "__main__":
    inputs.make_photos(sys.argv[1], int(sys.argv[2]))

"""Inside the process of one run; the only folder with a module-level `import torch`."""

"""One model over several browsers: read its graph, cut it, write the shards, check them natively."""

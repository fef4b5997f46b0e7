package main

import "context"

func changed(ctx context.Context, b *bench, k *kit, d *device) {}

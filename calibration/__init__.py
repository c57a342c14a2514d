"""Campaigns that time stage kernels on a device."""

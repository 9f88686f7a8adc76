"""Which addresses a webhook may go to."""

import pytest

from services.runtime.addresses import is_public


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::",
        "2001::1", "2001:db8::1", "fec0::1", "::7f00:1", "::ffff:0:7f00:1",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_and_its_network_are_not_public_however_they_are_written(address: str) -> None:
    assert not is_public(address)

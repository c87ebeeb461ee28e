"""The users of a ClickHouse server, as its file users.xml has them."""

_USERS = """<clickhouse>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users>
        <default>
            <password/>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
        </default>
        <{name}>
            <password/>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants>{grants}</grants>
        </{name}>
    </users>
</clickhouse>
"""


def users_with(name: str, grants: str) -> str:
    """Returns a file with the default user and another one, both without a password.

    Args:
        name: The other user.
        grants: What it may do, each as `<query>GRANT …</query>`.
    """
    return _USERS.format(name=name, grants=grants)

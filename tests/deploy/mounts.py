"""What the pods of the chart find in their volumes: its ConfigMaps, and Secrets as an operator or cert-manager makes them."""

from certificates import member_secret, members_secret, server_secret

ETC = "/etc/volley/"
# The Secret of the first administrator.
ADMIN = {"admin": b"admin:a long password"}


def uris(found):
    """The URIs of the members of a StatefulSet."""
    name, spec = found["metadata"]["name"], found["spec"]
    first = spec.get("ordinals", {}).get("start", 0)
    ordinals = range(first, first + spec["replicas"])
    if found["metadata"]["labels"]["app.kubernetes.io/component"] == "coordinator":
        return [f"volley://coordinator/{i}" for i in ordinals]
    return [f"volley://node/{name}-{i}" for i in ordinals]


class Mounts:
    """The contents of the volumes. `members` and `clients`: the authorities of their certificates."""

    def __init__(self, objects, members, clients):
        self.members, self.clients = members, clients
        self.configs = {found["metadata"]["name"]: found["data"] for found in objects if found["kind"] == "ConfigMap"}
        issued = [found["spec"] for found in objects if found["kind"] == "Certificate"]
        self.issued = {spec["secretName"]: self.by_cert_manager(spec) for spec in issued}

    def by_cert_manager(self, spec):
        if "uris" in spec:
            [uri] = spec["uris"]
            return member_secret(self.members, uri)
        return server_secret(self.clients, spec["dnsNames"] + spec["ipAddresses"])

    def secret(self, name, volume, found):
        """A Secret of a StatefulSet's volume."""
        if name in self.issued:
            return self.issued[name]
        if volume == "members":
            return members_secret(self.members, uris(found))
        return ADMIN if volume == "auth" else server_secret(self.clients, ["volley.example.org"])

    def config(self, name):
        """A ConfigMap; one that is not the chart's has the CA of the members."""
        return self.configs.get(name) or {"bundle.pem": self.members.ca.read_bytes(), "ca.crt": self.members.ca.read_bytes()}

    def source(self, source, volume, found):
        """The files of one source of a volume, by path."""
        if "configMap" in source:
            one, held = source["configMap"], self.config(source["configMap"]["name"])
        else:
            one = source["secret"]
            held = self.secret(one.get("secretName") or one["name"], volume, found)
        items = one.get("items") or [{"key": key, "path": key} for key in held]
        return {item["path"]: held[item["key"]] for item in items}

    def files(self, found):
        """The files below /etc/volley in the pods of a StatefulSet, by path below it."""
        pod = found["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        files = {}
        for mount in pod["containers"][0]["volumeMounts"]:
            if not mount["mountPath"].startswith(ETC):
                continue
            volume = volumes[mount["name"]]
            sources = volume["projected"]["sources"] if "projected" in volume else [volume]
            held = {}
            for source in sources:
                held |= self.source(source, mount["name"], found)
            where = mount["mountPath"].removeprefix(ETC)
            if "subPath" in mount:
                files[where] = held[mount["subPath"]]
            else:
                files |= {f"{where}/{path}": content for path, content in held.items()}
        return files


def write(folder, files):
    """Writes files below a folder."""
    for path, content in files.items():
        to = folder / path
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(content if isinstance(content, bytes) else content.encode())

"""`debug=true`: a run of two short tasks that tries everything once. Its folder lies below debug/, which no table reads."""

from cil.common.ranges import fits

MEANINGLESS = (
    "debug=true: two tasks of a few images, two batches each; the numbers mean nothing, and cil tables leaves them out"
)


def of_debug(config: dict) -> dict:
    """Return the configuration with what `debug=true` changes; without `debug` if it is off, as it was before there was one."""
    fits("debug", debug := config.get("debug", False), bool)
    if not debug:
        return {key: value for key, value in config.items() if key != "debug"}
    place, data = f"{config['outputs']}/debug", config["data"]
    features = data["features"] and f"{place}/features"
    data = data | {"decoded": f"{place}/decoded", "features": features}
    return {**config, "data": data, "machine": config["machine"] | {"checkpoint_seconds": 0}}

// Where the files of the containers ecosystem lie that userpod reads: registries.conf, certs.d, auth.json.
#pragma once

#include <string>
#include <vector>

namespace userpod::images {

// Absolute paths; empty: there is none. Of each list the first has precedence, unless said otherwise.
struct Places {
  std::string registriesConf;  // $CONTAINERS_REGISTRIES_CONF: then no other registries.conf and no drop-ins are read
  std::string registriesOverride;                // $CONTAINERS_REGISTRIES_CONF_OVERRIDE: read last, over everything
  std::string home;                              // $HOME
  std::string config;                            // $XDG_CONFIG_HOME or ~/.config: containers/ below it is the user's
  std::string cache;                             // $XDG_CACHE_HOME or ~/.cache: containers/short-name-aliases.conf
  std::string runtime;                           // $XDG_RUNTIME_DIR: containers/auth.json
  std::string etc = "/etc";                      // containers/ and docker/certs.d below it are the system's
  std::string vendor = "/usr/share/containers";  // the distribution's own registries.conf and drop-ins
  std::string authFile;                          // $REGISTRY_AUTH_FILE: read instead of all other auth files
  std::string dockerConfig;                      // $DOCKER_CONFIG or ~/.docker
  std::vector<std::string> path;                 // $PATH, of credential helpers
};

// From this process's environment.
Places userPlaces();

}  // namespace userpod::images

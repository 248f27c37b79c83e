#include "daemon/images/pinned.hpp"

#include <gtest/gtest.h>

namespace userpod::images {
namespace {

TEST(Pinned, Patterns) {
  ImageRecord image;
  image.id = "sha256:" + std::string(64, 'a');
  image.repoTags = {"docker.io/library/nginx:1.27", "registry.k8s.io/pause:3.10"};
  image.repoDigests = {"docker.io/library/nginx@sha256:" + std::string(64, 'd')};
  struct Case {
    std::string pattern;
    bool pinned;
  };
  const Case cases[] = {
      {"docker.io/library/nginx:1.27", true},
      {"registry.k8s.io/pause:3.10", true},
      {image.repoDigests[0], true},
      {image.id, true},
      {image.id.substr(7), true},
      {"registry.k8s.io/pause:*", true},
      {"registry.k8s.io/*", true},
      {"*nginx:1*", true},
      {"*@sha256:dddd*", true},
      {"*", true},
      {"**", true},
      {"docker.io/library/nginx", false},
      {"docker.io/library/nginx:1.2", false},
      {"nginx:1.27", false},
      {"k8s.io/*", false},
      {"*pause:3.10", false},
      {"registry.*/pause:3.10", false},
      {"*httpd*", false},
      {image.id.substr(7, 12), false},
      {"sha256:*", false},
      {"*aaaa*", false},
      {"", false},
  };
  for (const auto& [pattern, pinned] : cases) {
    EXPECT_EQ(isPinned({pattern}, image), pinned) << pattern;
    EXPECT_EQ(isPinned({"x", pattern}, image), pinned) << pattern << " as the second";
  }
  EXPECT_FALSE(isPinned({}, image));
}

// "*" pins what has a name: an image without any is what prune is for.
TEST(Pinned, WithoutNames) {
  ImageRecord image;
  image.id = "sha256:" + std::string(64, 'a');
  EXPECT_FALSE(isPinned({"*"}, image));
  EXPECT_TRUE(isPinned({image.id}, image));
}

}  // namespace
}  // namespace userpod::images

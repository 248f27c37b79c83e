#include "daemon/network/nftables.hpp"

#include <fmt/core.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include "daemon/sys/fd.hpp"
#include "daemon/sys/util.hpp"

namespace userpod::network {

Result<Nftables> Nftables::open() {
  // libnftables ends the whole process when it cannot open its socket (netlink_init_error calls exit): try first.
  UniqueFd probe(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!probe) return sysError("the kernel has no netfilter (CONFIG_NF_TABLES)").as(Code::NotSupported);
  probe.reset();
  Nftables nftables(nft_ctx_new(NFT_CTX_DEFAULT));
  if (!nftables.context_) return Error(Code::Internal, "libnftables gave no context");
  if (nft_ctx_buffer_output(nftables.context_.get()) != 0 || nft_ctx_buffer_error(nftables.context_.get()) != 0)
    return Error(Code::Internal, "libnftables gave no buffer for its output");
  return nftables;
}

Status Nftables::run(const std::string& commands) {
  int failed = nft_run_cmd_from_buffer(context_.get(), commands.c_str());
  // Reading empties the buffers, so both are read each time.
  std::string error(trim(nft_ctx_get_error_buffer(context_.get())));
  (void)nft_ctx_get_output_buffer(context_.get());
  if (failed == 0) return {};
  auto line = error.find('\n');
  return Error(Code::NetworkSetupFailed, "nftables: " + (error.empty() ? "no reason given" : error.substr(0, line)));
}

}  // namespace userpod::network

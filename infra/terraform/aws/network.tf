resource "aws_security_group" "jobs" {
  # checkov:skip=CKV2_AWS_5:Batch attaches it to the containers, which a plan does not show
  name_prefix = "${var.name}-"
  description = "Containers of ${var.name}: nothing comes in, brokers and HTTPS go out"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = var.name })

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.jobs.id
  description       = "ECR, S3, CloudWatch Logs and Secrets Manager"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = var.https_cidr_ipv4
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "brokers" {
  for_each = var.brokers

  security_group_id            = aws_security_group.jobs.id
  description                  = "Brokers: ${each.key}"
  ip_protocol                  = "tcp"
  from_port                    = each.value.from_port
  to_port                      = coalesce(each.value.to_port, each.value.from_port)
  cidr_ipv4                    = each.value.cidr_ipv4
  cidr_ipv6                    = each.value.cidr_ipv6
  prefix_list_id               = each.value.prefix_list_id
  referenced_security_group_id = each.value.security_group_id
  tags                         = var.tags
}

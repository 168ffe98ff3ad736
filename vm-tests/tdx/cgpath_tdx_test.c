// SPDX-License-Identifier: GPL-2.0-only
/*
 * The user-space interfaces of an Intel TDX guest, without TDX. For tests only: nothing here protects anything.
 *
 * What user space sees is the kernel's own: the measurement registers below the misc device tdx_guest come from
 * tsm-mr, reports from configfs-tsm, each with the provider name and the register names of the real driver. The
 * registers are memory, extended as a trust domain's are. Reports are made in user space: who opens
 * /dev/tdx_test_quoter reads a struct test_request for each and writes the quote.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/hex.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/tsm-mr.h>
#include <linux/tsm.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <crypto/sha2.h>

/* As long as the real driver waits for the host's quoting service. */
#define QUOTE_TIMEOUT	(30 * HZ)

/* Longer than what configfs gives out (32 KiB, of newer kernels 16 MiB), so that EFBIG can be had. */
#define QUOTE_MAX	SZ_32M

static char *mrtd_hex = "";
module_param_named(mrtd, mrtd_hex, charp, 0444);
MODULE_PARM_DESC(mrtd, "value of MRTD, 96 hex digits (default: zeros)");

static char *provider = "tdx_guest";
module_param(provider, charp, 0444);
MODULE_PARM_DESC(provider, "name of who makes reports (default: tdx_guest)");

static unsigned int extend_ms;
module_param(extend_ms, uint, 0644);
MODULE_PARM_DESC(extend_ms, "milliseconds that an extension takes");

static bool extend_fails;
module_param(extend_fails, bool, 0644);
MODULE_PARM_DESC(extend_fails, "extensions fail with EIO and change nothing");

static u8 mrtd[SHA384_DIGEST_SIZE];
static u8 rtmr0[SHA384_DIGEST_SIZE];
static u8 rtmr1[SHA384_DIGEST_SIZE];
static u8 rtmr2[SHA384_DIGEST_SIZE];
static u8 rtmr3[SHA384_DIGEST_SIZE];

/* What the quoting program is to sign: read whole, in one call. */
struct test_request {
	u8 report_data[TSM_REPORT_INBLOB_MAX];
	u8 mrtd[SHA384_DIGEST_SIZE];
	u8 rtmr[4][SHA384_DIGEST_SIZE];
};

enum quote_state {
	QUOTE_NONE,	/* nobody wants one */
	QUOTE_WANTED,	/* the program has not read the request yet */
	QUOTE_ASKED,	/* it has */
	QUOTE_MADE,
};

static DEFINE_MUTEX(quote_lock);
static DECLARE_WAIT_QUEUE_HEAD(quote_wait);
static enum quote_state quote_state;
static struct test_request quote_request;
static u8 *quote;
static size_t quote_len;

/* Readers and extenders of the registers. */
static DEFINE_MUTEX(register_lock);

static int registers_refresh(const struct tsm_measurements *tm)
{
	return 0;
}

static int register_extend(const struct tsm_measurements *tm,
			   const struct tsm_measurement_register *mr, const u8 *data)
{
	struct sha384_ctx ctx;

	if (READ_ONCE(extend_ms))
		msleep(READ_ONCE(extend_ms));
	if (READ_ONCE(extend_fails))
		return -EIO;
	mutex_lock(&register_lock);
	sha384_init(&ctx);
	sha384_update(&ctx, mr->mr_value, SHA384_DIGEST_SIZE);
	sha384_update(&ctx, data, SHA384_DIGEST_SIZE);
	sha384_final(&ctx, mr->mr_value);
	mutex_unlock(&register_lock);
	return 0;
}

#define TEST_RTMR(reg) { .mr_value = reg, TSM_MR_(reg, SHA384) | TSM_MR_F_RTMR }

static const struct tsm_measurement_register registers[] = {
	{ .mr_value = mrtd, TSM_MR_(mrtd, SHA384) },
	TEST_RTMR(rtmr0),
	TEST_RTMR(rtmr1),
	TEST_RTMR(rtmr2),
	TEST_RTMR(rtmr3),
};

static struct tsm_measurements measurements = {
	.mrs = registers,
	.nr_mrs = ARRAY_SIZE(registers),
	.refresh = registers_refresh,
	.write = register_extend,
};

static const struct attribute_group *tdx_groups[] = { NULL, NULL };

static struct miscdevice tdx_device = {
	.name = "tdx_guest",
	.minor = MISC_DYNAMIC_MINOR,
	.groups = tdx_groups,
};

static ssize_t quoter_read(struct file *file, char __user *buf, size_t count, loff_t *pos)
{
	int rc;

	if (count < sizeof(quote_request))
		return -EINVAL;
	for (;;) {
		rc = wait_event_interruptible(quote_wait, READ_ONCE(quote_state) == QUOTE_WANTED);
		if (rc)
			return rc;
		mutex_lock(&quote_lock);
		if (quote_state == QUOTE_WANTED)
			break;
		mutex_unlock(&quote_lock);
	}
	rc = copy_to_user(buf, &quote_request, sizeof(quote_request)) ? -EFAULT : 0;
	if (!rc)
		quote_state = QUOTE_ASKED;
	mutex_unlock(&quote_lock);
	return rc ?: sizeof(quote_request);
}

static ssize_t quoter_write(struct file *file, const char __user *buf, size_t count, loff_t *pos)
{
	u8 *made;

	if (!count || count > QUOTE_MAX)
		return -EINVAL;
	made = vmemdup_user(buf, count);
	if (IS_ERR(made))
		return PTR_ERR(made);
	mutex_lock(&quote_lock);
	if (quote_state != QUOTE_ASKED) {
		/* The asker has given up. */
		mutex_unlock(&quote_lock);
		kvfree(made);
		return -ESTALE;
	}
	quote = made;
	quote_len = count;
	quote_state = QUOTE_MADE;
	mutex_unlock(&quote_lock);
	wake_up_all(&quote_wait);
	return count;
}

static const struct file_operations quoter_fops = {
	.owner = THIS_MODULE,
	.read = quoter_read,
	.write = quoter_write,
};

static struct miscdevice quoter_device = {
	.name = "tdx_test_quoter",
	.minor = MISC_DYNAMIC_MINOR,
	.mode = 0600,
	.fops = &quoter_fops,
};

/* The core calls this for one report at a time. */
static int report_new(struct tsm_report *report, void *data)
{
	long left;
	int rc = 0;

	if (report->desc.inblob_len != TSM_REPORT_INBLOB_MAX)
		return -EINVAL;
	mutex_lock(&quote_lock);
	memcpy(quote_request.report_data, report->desc.inblob, TSM_REPORT_INBLOB_MAX);
	mutex_lock(&register_lock);
	memcpy(quote_request.mrtd, mrtd, SHA384_DIGEST_SIZE);
	memcpy(quote_request.rtmr[0], rtmr0, SHA384_DIGEST_SIZE);
	memcpy(quote_request.rtmr[1], rtmr1, SHA384_DIGEST_SIZE);
	memcpy(quote_request.rtmr[2], rtmr2, SHA384_DIGEST_SIZE);
	memcpy(quote_request.rtmr[3], rtmr3, SHA384_DIGEST_SIZE);
	mutex_unlock(&register_lock);
	quote_state = QUOTE_WANTED;
	mutex_unlock(&quote_lock);
	wake_up_all(&quote_wait);

	left = wait_event_interruptible_timeout(quote_wait, READ_ONCE(quote_state) == QUOTE_MADE,
						QUOTE_TIMEOUT);
	mutex_lock(&quote_lock);
	if (quote_state == QUOTE_MADE) {
		report->outblob = quote;
		report->outblob_len = quote_len;
		quote = NULL;
	} else {
		rc = left < 0 ? -EINTR : -ETIMEDOUT;
	}
	quote_state = QUOTE_NONE;
	mutex_unlock(&quote_lock);
	return rc;
}

static struct tsm_report_ops report_ops = {
	.report_new = report_new,
};

static int __init tdx_test_init(void)
{
	const struct attribute_group *group;
	int rc;

	if (*mrtd_hex && (strlen(mrtd_hex) != 2 * SHA384_DIGEST_SIZE ||
			  hex2bin(mrtd, mrtd_hex, SHA384_DIGEST_SIZE))) {
		pr_err("mrtd takes 96 hex digits\n");
		return -EINVAL;
	}
	group = tsm_mr_create_attribute_group(&measurements);
	if (IS_ERR(group))
		return PTR_ERR(group);
	tdx_groups[0] = group;
	rc = misc_register(&tdx_device);
	if (rc)
		goto free_group;
	rc = misc_register(&quoter_device);
	if (rc)
		goto no_tdx_device;
	report_ops.name = provider;
	rc = tsm_report_register(&report_ops, NULL);
	if (rc)
		goto no_quoter_device;
	pr_notice("registers and reports without TDX: for tests only\n");
	return 0;

no_quoter_device:
	misc_deregister(&quoter_device);
no_tdx_device:
	misc_deregister(&tdx_device);
free_group:
	tsm_mr_free_attribute_group(group);
	return rc;
}

static void __exit tdx_test_exit(void)
{
	tsm_report_unregister(&report_ops);
	misc_deregister(&quoter_device);
	misc_deregister(&tdx_device);
	tsm_mr_free_attribute_group(tdx_groups[0]);
	kvfree(quote);
}

module_init(tdx_test_init);
module_exit(tdx_test_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("User-space interfaces of a TDX guest without TDX, for tests");
